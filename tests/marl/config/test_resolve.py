"""marl/config/resolve.py: precedence, every fault at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from envs.mpe.catalogue import MPE_IDS
from marl.cli.parse import parse
from marl.config.fields import settings as all_settings
from marl.config.resolve import from_dict, to_yaml, tuned, validated
from marl.config.rules import FREE_ON_RESUME, RULES, WARNED_ON_RESUME, WARNINGS
from marl.config.schema import Config
from marl.config.suggest import ALIASES
from marl.errors import UserError


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(list(argv))
    return str(caught.value)


def test_a_recurrent_network_needs_a_hidden_layer() -> None:
    with pytest.raises(UserError, match=r"expected at least one width in maddpg.hidden"):
        from_dict({"env": "simple", "maddpg": {"recurrent": True, "hidden": []}})


def test_windows_without_recurrent_networks_are_remarked(capsys: pytest.CaptureFixture[str]) -> None:
    launched = parse(["--env", "simple", "--maddpg.window", "4"])
    assert "maddpg.window has no effect without --maddpg.recurrent" in "".join(launched.warnings)
    assert not parse(["--env", "simple", "--maddpg.window", "4", "--maddpg.recurrent"]).warnings


# ------------------------------------------------------------------ precedence
def test_one_flag_for_every_setting() -> None:
    """Guard: seen failing with `_shape` skipping nested dataclasses."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    helped = " ".join(out.getvalue().replace("│", " ").split())
    for setting in all_settings(Config).values():
        assert setting.flag in helped
        assert setting.doc.split(".")[0].split(":")[0][:30] in helped
    for flag in ("--config FILE", "--resume DIR", "--debug"):
        assert flag in helped


def test_defaults_below_task_file_below_config_below_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "simple_spread.yaml").write_text("maddpg:\n  gamma: 0.1\n  tau: 0.2\n  n_step: 3\nenv_args: {N: 4}\n")
    monkeypatch.setattr(resources, "files", lambda name: package)
    own = tmp_path / "own.yaml"
    own.write_text("maddpg:\n  gamma: 0.3\n  tau: 0.4\nenv_args:\n  local_ratio: 0.1\n")
    for env in ("simple_spread", "simple_spread_v3"):
        config = parse(["--env", env, "--config", str(own), "--maddpg.gamma", "0.5", "--env-args", "N=6"]).config
        assert (config.maddpg.gamma, config.maddpg.tau, config.maddpg.n_step) == (0.5, 0.4, 3)
        assert config.maddpg.batch_size == Config().maddpg.batch_size
        assert config.env_args == {"N": 6, "local_ratio": 0.1}


def test_env_may_come_from_the_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("env: simple_tag\nseed: 7\n")
    assert (parse(["--config", str(own)]).config.env, parse(["--config", str(own)]).config.seed) == ("simple_tag", 7)
    assert parse(["--config", str(own), "--env", "simple"]).config.env == "simple"


def test_shipped_configurations_are_valid_and_named_after_tasks() -> None:
    for file in resources.files("configs").iterdir():
        if file.name.endswith(".yaml"):
            task = file.name.removesuffix(".yaml")
            config = parse(["--env", task]).config
            assert config.env == task, "a task's file must not name an environment"


def test_bare_and_negated_flags() -> None:
    config = parse(["--env", "simple", "--world-model", "--maddpg.no-layer-norm", "--seed", "1"]).config
    assert config.world_model and not config.maddpg.layer_norm and config.seed == 1
    config = parse(["--env", "simple", "--no-world-model", "--no-maddpg.layer-norm", "--logging.progress=false"]).config
    assert not config.world_model and not config.maddpg.layer_norm and not config.logging.progress


def test_what_a_world_model_leaves_unset_depends_on_its_kind() -> None:
    def values(*words: str) -> tuple[float, ...]:
        wm = parse(["--env", "simple", "--world-model", *words]).config.wm
        return wm.update_rate, wm.size("ensemble"), wm.size("starts"), wm.size("through_horizon"), wm.size("classes")

    assert values() == values("--wm.kind", "linear") == (1 / 16, 2, 64, 8, 8)
    assert values("--wm.kind", "rssm", "--wm.preset", "gpu") == (0.5, 2, 32, 8, 32)
    given = ("--wm.updates-per-step", "2", "--wm.ensemble", "3", "--wm.starts", "4", "--wm.through-horizon", "0")
    assert values(*given) == (2.0, 3, 4, 0, 8)


def test_underscores_equals_signs_and_the_last_of_repeated_flags() -> None:
    config = parse(["--env=simple", "--maddpg.actor_lr=1e-4", "--seed", "1", "--seed", "2"]).config
    assert (config.maddpg.actor_lr, config.seed) == (1e-4, 2)


def test_pairs_of_a_flag_that_is_given_again_add_up() -> None:
    """Guard: seen failing with the first ones dropped."""
    words = (
        "--env simple_spread --env-args N=5 --seed 2 --env_args=local_ratio=0.2 --env-args max_cycles=7 --num-envs 4"
    )
    config = parse(words.split()).config
    assert config.env_args == {"N": 5, "local_ratio": 0.2, "max_cycles": 7} and (config.seed, config.num_envs) == (2, 4)
    with pytest.raises(UserError, match="--env-args: gives N twice"):
        parse(["--env", "simple_spread", "--env-args", "N=5", "--env-args", "N=6"])
    shares = parse(
        ["--env", "simple_tag", "--maddpg.actor-lr-shares", "a=1", "--maddpg.actor-lr-shares", "b=0.5"]
    ).config.maddpg
    assert shares.actor_lr_shares == {"a": 1.0, "b": 0.5}


def test_own_environment_takes_the_backend_that_plays_it() -> None:
    assert parse(["--env", "my.module:make"]).config.backend == "pettingzoo"
    assert "backend torch has MPE's tasks only" in refused("--env", "my.module:make", "--backend", "torch")


# ------------------------------------------------------------------ faults
def test_every_fault_of_every_source_at_once(tmp_path: Path) -> None:
    """Guard: seen failing when `_fresh` raised after each source."""
    own = tmp_path / "own.yaml"
    own.write_text("maddpg:\n  gama: 0.9\n  tau: 7\n  hidden: 64\nsed: 1\nnum_envs: 4\nnum_envs: 5\ngamma: 0.5\n")
    text = refused(
        "--env", "simple_spred", "--config", str(own), "--seed", "-1", "--maddpg.batch-size", "100",
        "--replay.capacity", "50", "--bogus", "3", "--device", "gpu", "stray", "--total-steps", "ten",
    )  # fmt: skip
    assert text.startswith("12 problems:")
    for words in (
        f"{own}, line 2: maddpg.gama: there is no such setting. Did you mean 'gamma'",
        f"{own}, line 3: maddpg.tau: got 7; expected a number, above 0 and up to 1",
        f"{own}, line 4: maddpg.hidden: got 64; expected a list, each entry a whole number, at least 1",
        f"{own}, line 5: sed: there is no such setting. Did you mean 'seed'?",
        f"{own}: line 7: num_envs is given twice, first in line 6",
        f"{own}, line 8: gamma: there is no such setting. Did you mean 'maddpg.gamma'?",
        "--seed: got -1; expected a whole number, at least 0",
        "--bogus: there is no such flag",
        "--total-steps: got 'ten'; expected a whole number, at least 1",
        "unknown environment 'simple_spred'. Did you mean 'simple_spread'",
        "maddpg.batch_size 100 is more than replay.capacity 50; expected a batch that fits into the replay "
        "(maddpg.batch_size from --maddpg.batch-size, replay.capacity from --replay.capacity)",
        "--device: got 2 values",
    ):
        assert words in text, f"{words}\nnot in\n{text}"


def test_no_environment_lists_the_tasks() -> None:
    text = refused()
    assert "expected --env ID (or --resume DIR)" in text
    assert "simple_speaker_listener, simple_spread" in text and "package.module:function" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--env"], "--env: has no value; expected text"),
        (["--env", "simple", "--gamma", "2"], "--gamma: there is no such flag. Did you mean '--maddpg.gamma'?"),
        (["--env", "simple", "--maddpg.gama=2"], "Did you mean '--maddpg.gamma'"),
        (["--env", "simple", "--maddpg.lr", "2"], "Did you mean '--maddpg.actor-lr' or '--maddpg.critic-lr'?"),
        (["--env", "simple", "--lr", "2"], "Did you mean '--maddpg.actor-lr' or '--maddpg.critic-lr'?"),
        (["--env", "simple", "--learning_rate=2"], "Did you mean '--maddpg.actor-lr' or '--maddpg.critic-lr'?"),
        (["--env", "simple", "--wm.learning-rate", "2"], "Did you mean '--wm.lr'?"),
        (["--env", "simple", "--batch", "2"], "Did you mean '--maddpg.batch-size'?"),
        (["--env", "simple", "--steps", "2"], "Did you mean '--total-steps'?"),
        (["--env", "simple", "--seeds", "2"], "Did you mean '--num-replicas' or '--seed'?"),
        (["--env", "simple", "--envs", "2"], "Did you mean '--num-envs'?"),
        (["--env", "simple", "--maddpg.capacity", "2"], "Did you mean '--replay.capacity' or '--wm.capacity'?"),
        (["--env", "simple", "--resum", "2"], "Did you mean '--resume'?"),
        (["--env", "simple", "--maddpg", "2"], "--maddpg: there is no such flag"),
        (["simple"], "'simple': expected a flag that begins with --"),
        (["--env", "simple", "--debug", "yes"], "--debug takes no value, got 'yes'"),
        (["--env", "simple", "--config"], "--config takes one file, got none"),
        (["--env", "simple", "--config", "a", "b"], "--config takes one file, got 2 values"),
        (["--env", "simple", "--resume", ""], "--resume takes one directory, got none"),
        (["--env", "simple", "--config", "/nowhere/x.yaml"], "/nowhere/x.yaml: there is no such file"),
        (["--env", "simple", "--config", "/"], "/: cannot be read"),
        (["--env", "simple_spread", "--env-args", "M=5"], "--env-args: simple_spread_v3 has no argument 'M'"),
        (["--env", "simple_spread_v2"], "unknown environment 'simple_spread_v2'. Did you mean 'simple_spread_v3'"),
        (["--env", "my-module:make"], "unknown environment 'my-module:make'"),
        (["--env", "/a/b/own.py:make"], "names a file, expected a module: start in /a/b (cd) and give own:make."),
        (["--env", "own.py:make"], "names a file, expected a module: give own:make."),
        (["--env", "simple", "--num-envs", "8", "--total-steps", "7"], "total_steps 7 is less than num_envs 8"),
        (["--env", "simple", "--maddpg.frames", "0"], "got 0; expected a whole number, at least 1"),
        (["--env", "simple", "--maddpg.frames", "2", "--world-model"], "expected frames 1 with it"),
        (["--env", "simple", "--maddpg.critic", "factored", "--maddpg.independent-critics"], "expected one of the two"),
        (["--env", "simple", "--maddpg.critic", "factored", "--maddpg.recurrent"], "expected maddpg.critic joint"),
        (["--env", "simple", "--maddpg.critic", "factored"], "expected maddpg.team_reward true with it"),
        (["--env", "simple", "--maddpg.recurrent", "--world-model", "--wm.through-horizon=0"], "expected at least 1"),
        (["--env", "simple", "--maddpg.recurrent", "--distributed", "data"], "expected distributed replicas"),
        (["--env", "simple", "--maddpg.recurrent", "--maddpg.batch-size", "15"], "room for at least one window"),
        (["--env", "simple", "--maddpg.recurrent", "--maddpg.n-step", "17"], "n_step 17 is more than maddpg.window 16"),
        (["--env", "simple", "--maddpg.recurrent", "--num-envs", "50000"], "expected at least 1200000"),
        (["--env", "simple", "--workers", "2"], "workers 2 needs backend pettingzoo"),
        (["--env", "simple", "--backend", "pettingzoo", "--workers", "99"], "more than the 16 environments"),
        (["--env", "simple", "--maddpg.estimator", "gumbel"], "Did you mean 'gumbel_st'"),
        (["--env", "simple", "--checkpoint.keep", "1"], "got 1; expected a whole number, at least 2"),
        (["--env", "a\0b"], "NUL"),
    ],
)  # fmt: skip
def test_single_faults(argv: list[str], words: str) -> None:
    assert words in refused(*argv)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected NAME: VALUE lines"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "is not a text file in UTF-8"),
        (b"- 1\n- 2\n", "got [1, 2]; expected NAME: VALUE lines"),
        (b"maddpg: 3\n", "line 1: maddpg: got 3; expected its settings, indented below it"),
        (b"maddpg.gamma: 0.5\n", "Did you mean 'maddpg.gamma'? (written below its group, indented)"),
        (b"maddpg:\n\tgamma: 1\n", "line 2: a tab"),
        (b"seed: !!python/object/apply:os.getpid []\n", "line 1: the tag !!python/object/apply:os.getpid is refused"),
        (b"env_args: 5\n", "line 1: env_args: got 5; expected NAME: VALUE pairs"),
        (b"maddpg: {lr: 1}\n", "maddpg.lr: there is no such setting. Did you mean 'actor_lr' or 'critic_lr'?"),
        (b"lr: 1\n", "Did you mean 'maddpg.actor_lr' or 'maddpg.critic_lr'? (written below its group, indented)"),
        (b"maddpg: {replay: {}}\n", "maddpg.replay: there is no such setting. Did you mean 'replay'?"),
    ],
)
def test_faulty_files(tmp_path: Path, content: bytes, words: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_bytes(content)
    text = refused("--env", "simple", "--config", str(own))
    assert words in text and str(own) in text


def test_a_file_of_comments_and_an_empty_group_are_fine(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("# nothing yet\n")
    assert parse(["--env", "simple", "--config", str(own)]).config == parse(["--env", "simple"]).config
    own.write_text("maddpg:\n  # gamma: 0.5\nseed: 1\n")
    assert parse(["--env", "simple", "--config", str(own)]).config.seed == 1


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "tuned.yaml").write_text("seed: 1\n")
    assert "Did you mean 'tuned.yaml'?" in refused("--env", "simple", "--config", str(tmp_path / "tuned.yml"))


def test_warnings() -> None:
    launch = parse(["--env", "simple", "--total-steps", "500", "--wm.kind", "rssm"])
    assert any("nothing will be learned" in warning for warning in launch.warnings)
    assert any("wm.kind has no effect without --world-model" in warning for warning in launch.warnings)
    words = ["--env", "simple", "--wm.kind", "rssm", "--world-model", "--wm.through-horizon", "0"]
    assert parse(words).warnings == ()
    last = ["--env", "simple", "--maddpg.warmup-steps", "1000", "--num-envs", "16", "--total-steps"]
    assert not any("learned" in text for text in parse([*last, "1000"]).warnings)  # the last round ends at 1008
    assert any("learned" in text for text in parse([*last, "992"]).warnings)
    exact = parse(["--env", "simple", "--world-model"])  # agents learn through eight steps
    assert exact.config.maddpg.estimator == "exact"
    assert any("straight_through estimator in place of maddpg.estimator exact" in told for told in exact.warnings)
    for flags in (["--maddpg.estimator", "gumbel_st"], ["--wm.through-horizon", "0"]):
        assert parse(["--env", "simple", "--world-model", *flags]).warnings == ()


def test_starts_that_are_too_few_to_blend_are_told() -> None:
    """Guard: seen failing without a word."""

    def told(*words: str) -> bool:
        warnings = parse(["--env", "simple", "--world-model", "--wm.starts", *words]).warnings
        return any(one.startswith("wm.blend has no effect with wm.starts 8, since") for one in warnings)

    assert told("8") and not told("9")
    assert not told("8", "--wm.no-blend") and not told("8", "--maddpg.recurrent")


@pytest.mark.parametrize("share", ["0.5", "0"])
def test_real_batches_of_recurrent_networks_are_told(share):
    words = ["--env", "simple_tag", "--world-model", "--maddpg.recurrent", "--wm.imagined-share", share]
    told = [one for one in parse(words).warnings if "wm.imagined_share has no effect with --maddpg.recurrent" in one]
    assert len(told) == (share != "0")


@pytest.mark.parametrize("name", ["estimator", "message-estimator"])
def test_estimators_that_the_loss_through_the_model_replaces_are_told(name: str) -> None:
    """Guard: seen failing for messages, whose estimator was ignored in silence."""
    run = ["--env", "simple_reference", "--world-model"]
    warnings = " ".join(parse([*run, f"--maddpg.{name}", "exact"]).warnings)
    assert f"straight_through estimator in place of maddpg.{name.replace('-', '_')} exact" in warnings
    assert "straight_through" not in " ".join(parse([*run, f"--maddpg.{name}", "reinmax"]).warnings)


def test_a_file_of_another_task_says_what_it_replaces(tmp_path: Path) -> None:
    """Guard: seen failing without a word: the values tuned for the task at hand were lost in silence."""
    own = tmp_path / "config.yaml"
    own.write_text(to_yaml(tuned("simple_spread")))
    (warning,) = parse(["--env", "simple_tag", "--config", str(own)]).warnings
    assert warning.startswith(f"{own} was written for simple_spread: it replaces values that configs/simple_tag.yaml")
    assert warning.endswith("tunes for simple_tag (total_steps, maddpg.gamma, maddpg.batch_size and 1 more)")
    assert parse(["--env", "simple_spread_v3", "--config", str(own)]).warnings == ()
    assert parse(["--config", str(own)]).warnings == ()


def test_aliases_name_settings_that_exist() -> None:
    assert {name for names in ALIASES.values() for name in names} <= set(all_settings(Config))


def test_rules_name_settings_that_exist() -> None:
    known = set(all_settings(Config))
    for rule in (*RULES, *WARNINGS):
        assert set(rule.names) <= known
        assert not rule.broken(Config(env="simple"))
    assert set(WARNED_ON_RESUME) <= known
    for prefix in FREE_ON_RESUME:
        assert any(name.startswith(prefix) for name in known)


# ------------------------------------------------------------------ from Python
def test_validated_checks_what_dataclasses_do_not() -> None:
    assert validated(Config(env="simple")) == Config(env="simple")
    wrong = Config(env="simpl", seed=-1, num_envs="4")  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        validated(wrong)
    assert "seed: got -1" in str(caught.value) and "num_envs: got '4'" in str(caught.value)
    with pytest.raises(UserError, match="unknown environment 'simpl'"):
        validated(Config(env="simpl"))


@pytest.mark.parametrize("env", MPE_IDS)
def test_every_task_has_tuned_values(env: str) -> None:
    """Guard: seen failing with an empty file, which is valid YAML."""
    assert tuned(env).maddpg != Config().maddpg


def test_tuned_is_what_the_command_line_starts_with() -> None:
    env = "simple_speaker_listener"
    assert tuned(env) == parse(["--env", env]).config
    changed = tuned(env, total_steps=500, maddpg={"gamma": 0.5})
    assert (changed.total_steps, changed.maddpg.gamma) == (500, 0.5)
    assert changed.maddpg.actor_lr == tuned(env).maddpg.actor_lr != Config().maddpg.actor_lr
    with pytest.raises(UserError, match=r"maddpg\.gama"):
        tuned(env, maddpg={"gama": 0.5})
    with pytest.raises(UserError, match="unknown environment"):
        tuned("simple_speeker")
