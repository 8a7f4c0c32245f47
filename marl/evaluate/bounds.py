"""Upper bounds that are proved and computed by `python -m benchmarks.bounds`, which writes this module."""

from __future__ import annotations

# environment -> kind of anchor -> bound of the expected return per agent, mean over all agents
BOUNDS: dict[str, dict[str, float]] = {
    "simple_v3": {"oracle": -7.285},
    "simple_speaker_listener_v4": {"oracle": -7.412, "no_communication": -15.36},
    "simple_reference_v3": {"oracle": -7.255, "no_communication": -16.574},
    "simple_spread_v3": {"oracle": -4.024},
    "simple_line_v1": {"oracle": -4.039},
    "simple_formation_v1": {"oracle": -2.653},
}
