"""MPE in torch: physics once, one file a scenario."""

from __future__ import annotations

from envs.mpe.catalogue import MPE_IDS, canonical_id, describe, parallel_env

__all__ = ["MPE_IDS", "canonical_id", "describe", "parallel_env"]
