"""Settings of the scoring of responses: `verifier.*`."""

from typing import Annotated

from pydantic import Field

from dps_ray.setting_types import Seconds, Settings


class VerifierSettings(Settings):
    """Limits on scoring one response, in a process that can be killed. What the first call imports is not counted."""

    seconds: Seconds = 10.0
    """Wall-clock time."""
    cpu_seconds: Seconds = 10.0
    """Processor time, rounded up to whole seconds."""
    memory_gib: Annotated[float, Field(gt=0.0)] = 2.0
    """Memory beyond what the process has before it scores."""
