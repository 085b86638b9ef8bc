"""Settings of the scoring of responses: `verifier.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Seconds, Settings


class VerifierSettings(Settings):
    """Limits on scoring one response, in a process that can be killed. Imports of the first call are not counted."""

    seconds: Seconds = 10.0
    """Maximum wall-clock seconds to score a response."""
    cpu_seconds: Seconds = 10.0
    """Maximum processor seconds to score a response, rounded up to whole seconds."""
    memory_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """Maximum memory in GiB to score a response, beyond what the process uses before."""
