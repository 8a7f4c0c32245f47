"""How an environment is made anew, here or in another process, and what it is.

A recipe can be sent to a worker: it holds the id or the function, and the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pettingzoo import ParallelEnv

from envs.errors import UserError
from envs.ids import names_function
from envs.pettingzoo.arrays import Arrays
from envs.pettingzoo.construct import callable_id, from_callable, parallel_env
from envs.pettingzoo.copies import Copies
from envs.pettingzoo.describe import describe, describe_declared
from envs.pettingzoo.reader import find_masks
from envs.pettingzoo.trials.routes import check_routes
from envs.pictures import Small
from envs.spec import EnvSpec


@dataclass(frozen=True)
class Recipe:
    """Makes the environment anew, here or in another process."""

    env_id: str
    make: Callable[..., ParallelEnv] | None
    env_args: dict[str, Any] = field(default_factory=dict)
    is_mpe: bool = False
    rebuild: bool = False

    def __call__(self) -> ParallelEnv:
        if self.make is not None:
            return from_callable(self.make, **self.env_args)
        return parallel_env(self.env_id, **self.env_args)

    def copies(self, spec: EnvSpec, rows: Sequence[int], arrays: Arrays, first: ParallelEnv | None = None) -> Copies:
        # mpe2's close() shuts the whole of pygame down: rendering of every other environment here would break
        return Copies(self, spec, rows, arrays, first, not self.is_mpe, self.rebuild)


def recipe_of(env_id: str | None, make: Callable[..., ParallelEnv] | None, env_args: dict[str, Any]) -> Recipe:
    """From the id or the function that `PettingZooEnv` was given.

    Raises:
        UserError: neither is given, or the id is unknown.
    """
    if make is not None:
        return Recipe(env_id or callable_id(make), make, env_args)
    if not env_id:
        raise UserError("expected an environment id such as 'simple_spread' or 'package.module:function', or make=...")
    if names_function(env_id):
        return Recipe(env_id, None, env_args)
    from envs.mpe import catalogue

    return Recipe(catalogue.require_id(env_id), None, env_args, is_mpe=True)


def described_by(
    recipe: Recipe, env: ParallelEnv, given: EnvSpec | None, declared: dict[str, Any], pictures: Small | None
) -> tuple[EnvSpec, bool]:
    """The spec of MPE's catalogue, the one that was given, or our own description with what was declared; and whether
    agents take turns."""
    if given is not None or recipe.is_mpe:
        extra = [name for name, value in declared.items() if value is not None]
        if extra:
            why = "spec= is given" if given is not None else f"{recipe.env_id} is known already"
            raise UserError(f"{extra} cannot be declared: {why}.")
    if recipe.is_mpe and given is None:
        from envs.mpe import catalogue

        return catalogue.describe(recipe.env_id, env), False
    if given is not None:
        own = describe(recipe.env_id, env, pictures=Small.of(given))
        sizes = [(agent.name, agent.obs_size, agent.space_size, agent.multi_discrete) for agent in own.agents]
        wanted = [(agent.name, agent.obs_size, agent.space_size, agent.multi_discrete) for agent in given.agents]
        if sizes != wanted:
            raise UserError(
                f"the given spec does not fit {recipe.env_id!r}: expected (agent, observation width, actions, "
                f"multi-discrete) {sizes}, got {wanted}."
            )
        masks = find_masks(given, env)
        return replace(given, has_masks=masks.any), masks.turns
    spec = describe_declared(recipe.env_id, env, declared, pictures)
    masks = find_masks(spec, env)
    spec = replace(spec, has_masks=masks.any)
    check_routes(spec, env)
    return spec, masks.turns
