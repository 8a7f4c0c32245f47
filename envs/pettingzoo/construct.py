"""Construct a PettingZoo ParallelEnv from its id or from a function."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from envs.errors import UserError, did_you_mean
from envs.ids import names_function, unfindable
from envs.pettingzoo.named import named
from envs.pettingzoo.values import raised

_OURS = ("envs", "marl", "configs")


def close_env(env: ParallelEnv, env_id: str) -> None:
    """Close an environment that is done with; warn where it raises, for nothing is lost by that."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"environment {env_id!r}: {raised('close', error)}.", RuntimeWarning, stacklevel=2)


def parallel_env(env_id: str, /, **env_args: Any) -> ParallelEnv:
    """Construct the real PettingZoo environment of an MPE id or of `package.module:function`.

    The current directory is importable, as with `python -m`.

    Raises:
        UserError: unknown id, module or function, wrong arguments, not a ParallelEnv, or the function raised.
    """
    if not names_function(env_id):
        from envs.mpe import catalogue

        return _call(lambda **args: catalogue.parallel_env(env_id, **args), env_id, env_args)
    return _call(_function(env_id), env_id, env_args)


def from_callable(make: Callable[..., ParallelEnv], /, **env_args: Any) -> ParallelEnv:
    """Construct the environment that `make(**env_args)` returns; the same errors as `parallel_env`."""
    if not callable(make):
        raise UserError(f"make must be a function that returns a ParallelEnv, got {type(make).__name__}.")
    return _call(make, callable_id(make), env_args)


def callable_id(make: Callable[..., Any]) -> str:
    """`package.module:function` of a function or class."""
    inner = getattr(make, "func", make)  # functools.partial
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', '?')}:{name}"


def is_importable(make: Callable[..., Any]) -> bool:
    """Whether another process finds the same function under its `callable_id`."""
    module_name, _, name = callable_id(make).partition(":")
    return module_name != "__main__" and getattr(sys.modules.get(module_name), name, None) is make


def _function(env_id: str) -> Callable[..., ParallelEnv]:
    module_name, _, name = env_id.partition(":")
    if not module_name or not name:
        raise UserError(f"environment {env_id!r}: expected package.module:function, with a name on both sides.")
    if unfindable(env_id):
        raise UserError(unfindable(env_id))
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # stays: modules of the environment may import their neighbours later; behind ours where it would hide them
        # from worker processes, which search the same places
        hides = any((Path(here) / name / "__init__.py").is_file() for name in _OURS)
        sys.path.insert(len(sys.path) if hides else 0, here)
    _look_here_too(module_name, Path(here))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(
                f"environment {env_id!r}: there is no module {error.name!r} in {here} or among the installed "
                f"packages. {_another(error.name) or 'Install it, or start from the directory that holds it.'}"
            ) from error
        raise UserError(f"environment {env_id!r}: its module needs {error.name!r}, which is not installed.") from error
    except Exception as error:
        raise UserError(f"environment {env_id!r}: importing its module raised {in_words(error)}.") from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"environment {env_id!r}: module {module_name!r} has no function {name!r}; "
            f"it has {sorted(known)[:20]}.{did_you_mean(name, known)}"
        )
    if not callable(function):
        raise UserError(f"environment {env_id!r}: {name!r} is a {type(function).__name__}, expected a function.")
    return function


def _another(module_name: str) -> str:
    """A question for a module whose package has others of such a name, as of another version."""
    package, _, name = module_name.rpartition(".")
    places = getattr(sys.modules.get(package), "__path__", None)
    known = [one.name for one in pkgutil.iter_modules(places)] if places else []
    stem = re.sub(r"_v\d+$", "", name)
    versions = [one for one in known if re.sub(r"_v\d+$", "", one) == stem and one != stem]
    if versions:
        return f"The installed version has {' and '.join(f'{package}.{one}' for one in versions)}."
    return did_you_mean(name, known).strip()


def _look_here_too(module_name: str, here: Path) -> None:
    """Let a folder of the user's project be found that is named as one of our packages, such as `envs`.

    Ours is imported already and would be the only one to be searched; our own modules still come first.
    """
    package = sys.modules.get(module_name.partition(".")[0])
    own = here / module_name.partition(".")[0]
    path = getattr(package, "__path__", None)
    if "." in module_name and path is not None and own.is_dir() and str(own) not in map(os.path.abspath, path):
        path.append(str(own))
        importlib.invalidate_caches()


def _call(make: Callable[..., Any], env_id: str, env_args: dict[str, Any]) -> ParallelEnv:
    try:
        env = make(**env_args)
    except UserError:
        raise
    except Exception as error:
        given = f" with {env_args}" if env_args else ""
        raise UserError(f"environment {env_id!r}: constructing it{given} raised {in_words(error)}.") from error
    if isinstance(env, AECEnv):
        return _in_parallel(env, env_id)
    if not isinstance(env, ParallelEnv):
        raise UserError(f"environment {env_id!r}: expected a pettingzoo.ParallelEnv, got {type(env).__name__}.")
    return named(env)


def _in_parallel(env: AECEnv, env_id: str) -> ParallelEnv:
    """An AECEnv as a ParallelEnv where nothing is lost by it: where, as its metadata says, nothing changes before all
    agents have acted."""
    if not (getattr(env, "metadata", None) or {}).get("is_parallelizable", False):
        raise UserError(
            f"environment {env_id!r} is an AECEnv (agents act in turns), and its metadata does not say "
            f"is_parallelizable; expected a ParallelEnv. For a game of turns return "
            f"pettingzoo.utils.conversions.turn_based_aec_to_parallel(env) from the function; where all agents act on "
            f"what they saw before any of them acted, put is_parallelizable=True into the metadata."
        )
    parallel = named(aec_to_parallel(env))
    _CONVERTED.add(parallel)
    return parallel


_CONVERTED: weakref.WeakSet[ParallelEnv] = weakref.WeakSet()


def is_converted(env: ParallelEnv) -> bool:
    """Whether the function of this environment returned an AECEnv."""
    return env in _CONVERTED


def conversion(env_id: str) -> str:
    """What to say of an environment that is converted."""
    return (
        f"Environment {env_id!r} is an AECEnv: it is played by pettingzoo's aec_to_parallel, without loss, as its "
        "metadata says is_parallelizable."
    )


def in_words(error: BaseException) -> str:
    """An exception as a part of a sentence: its type and message."""
    return f"{type(error).__name__}: {str(error).strip().rstrip('.') or 'no message'}"
