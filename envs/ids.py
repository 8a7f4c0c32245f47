"""The two kinds of environment ids: names of MPE tasks, and functions of any module."""

from __future__ import annotations


def names_function(env_id: str) -> bool:
    """Whether `env_id` is `package.module:function`, which only the pettingzoo backend plays; else it is an MPE id."""
    return ":" in env_id


def unfindable(env_id: str) -> str:
    """Why no other process can find the function that `env_id` names, with what to do; "" where it may."""
    module, _, name = env_id.partition(":")
    if name and (module.endswith(".py") or "/" in module):
        folder, _, file = module.removesuffix(".py").rpartition("/")
        go = f"start in {folder or '/'} (cd) and " if folder or module.startswith("/") else ""
        return f"environment {env_id!r} names a file, expected a module: {go}give {file}:{name}."
    if not names_function(env_id) or (module != "__main__" and "<" not in name):
        return ""
    return (
        f"environment {env_id!r} was a function in Python, which no other command can import. Give it a name at the "
        f"top of a module and train with --env module:function; or go on in Python, with the same function as make=... "
        f"of marl.evaluate.evaluate, or make_env=... of marl.train(..., resume=...)."
    )
