"""Ids of the variants, apart from their settings, for which a command line that only prints help need not wait."""

from __future__ import annotations

VARIANT_ID = "speaker_listener_variant_v0"
REFERENTIAL_ID = "referential_game_v0"
