"""Policies written by hand: the floors and ceilings that learning is measured against."""

from marl.scripted.by_name import TABLE, names, plays, scripted

__all__ = ["TABLE", "names", "plays", "scripted"]
