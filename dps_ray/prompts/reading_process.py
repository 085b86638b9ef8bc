"""A process that reads parts of files of prompts. `dps_ray.prompts.reading` starts it with the number of a file: the
connection on which parts come, and on which their keys or an error go back."""

import sys
from contextlib import suppress
from multiprocessing.connection import Connection

import pyarrow as pa

from dps_ray.prompts.files import PromptFile
from dps_ray.prompts.places import DataFile
from dps_ray.prompts.reading import Part


def main(connection: Connection) -> None:
    pa.set_cpu_count(1)  # there is a process for each core
    opened: dict[tuple[DataFile, str | None], PromptFile] = {}
    with suppress(EOFError, OSError):  # the process that asked has ended
        while True:
            part: Part = connection.recv()
            try:
                key = part.file, part.id_column
                if key not in opened:
                    opened.clear()  # parts come in the order of files
                    opened[key] = PromptFile(*key)
                connection.send(part.keys(opened[key]))
            except Exception as error:
                connection.send(error)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
