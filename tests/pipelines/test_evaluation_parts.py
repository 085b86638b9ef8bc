"""What is known already of a model on a test set, and when it is not."""

from contextlib import nullcontext

import pytest

from dps_ray.config import reading
from dps_ray.config.evaluation import EvaluationConfig
from pipelines.evaluation.inputs import find_benchmarks, find_models
from pipelines.evaluation.parts import parts_of
from pipelines.monitoring import json_lines
from pipelines.rollout.answers import Answered


def unseen(title):
    return nullcontext(lambda done, total, unit: None)


@pytest.fixture
def part_of(tmp_path, tiny_policy, chains):
    """The part that an evaluation with these overrides has."""

    def find(*overrides):
        given = [
            f"model.path={tiny_policy}",
            f"data.test={chains[1]}",
            f"folder={tmp_path / 'out'}",
        ]
        limits = ["data.max_prompt_length=64", "max_response_length=56", "samples=2"]
        config = reading.load_as(EvaluationConfig, None, [*given, *limits, *overrides])
        (model,) = find_models(config, print)
        (part,) = parts_of(model, find_benchmarks(config, print), config, print, unseen)
        return part

    return find


def test_only_what_was_answered_is_known_and_its_texts_are_left_on_disk(part_of):
    part = part_of()
    first, second, third = part.ids[:3].tolist()
    answered = Answered(
        first, "chains", (1.0, 0.0), tokens=7, reward=0.5, prompt="1+1=", response="2"
    )
    failed = Answered(second, "chains", None, error="its engine died", prompt="1+2=")
    json_lines.append(part.file, [answered._asdict(), failed._asdict()])
    with part.file.open("ab") as file:
        file.write(f'{{"prompt_id": {third}, "data_sou'.encode())

    known = part_of().answered()
    assert known == {first: Answered(first, "chains", [1.0, 0.0], tokens=7, reward=0.5)}
    assert part.rest(known).tolist() == part.ids[1:].tolist()

    json_lines.append(part.file, [answered._replace(prompt_id=second)._asdict()])
    assert part.rest(part.answered()).tolist() == part.ids[2:].tolist()


@pytest.mark.parametrize(
    "override", ["samples=3", "temperature=0.5", "seed=1", "data.reward=math:isclose"]
)
def test_with_another_setting_that_responses_depend_on_nothing_is_known(part_of, override):
    assert part_of().file == part_of("max_prompts=5", "rollout.max_num_seqs=8").file
    assert part_of(override).file != part_of().file


def test_a_file_with_a_chat_template_is_known_by_what_is_in_it(part_of, tmp_path):
    template = tmp_path / "template.jinja"
    override = f"model.chat_template={template}"
    files = []
    for text in ("{{ messages[0].content }}", "Q: {{ messages[0].content }}"):
        template.write_text(text)
        files.append(part_of(override).file)
    assert files[0] != files[1]
    template.rename(tmp_path / "other.jinja")
    assert part_of(f"model.chat_template={tmp_path / 'other.jinja'}").file == files[1]
