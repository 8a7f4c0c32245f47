"""Train agents that act and speak in discrete symbols: MADDPG with Gumbel-softmax actors.

    python run.py --env simple_speaker_listener            train on an MPE task, on this machine's best device
    python run.py --env simple_spread --env-args N=5       arguments of the environment
    python run.py --env my_package.my_module:make_env      any PettingZoo ParallelEnv with discrete actions
    python run.py --env simple_reference --config my.yaml  settings from a file
    python run.py --resume runs/simple_spread/...          go on with a run, to the bit as if it had never stopped
    python run.py --help                                   every setting with its default and range

Flags that matter most
    --env ID              an MPE id with or without version, or package.module:function
    --total-steps STEPS   steps of all environments of one replica
    --seed K              the run is a function of it, the configuration and the versions
    --num-replicas S      independent training runs side by side
    --num-envs E          environments per replica
    --backend B           torch (our batched MPE) or pettingzoo (the real environment)
    --device D            auto, cpu, cuda or cuda:i
    --run-dir DIR         where everything is written; default runs/<env>/<date-time>_seed<K>/
    --world-model         mix a learned world model's imagined transitions into the replay

Values come from: defaults in marl/config/schema.py < configs/<env>.yaml < --config FILE < the command line.

The run directory holds config.yaml (every setting), metrics.jsonl and TensorBoard files, checkpoints/, evaluation.json,
figures and report.html. Ctrl-C ends the run after a save and prints the command that resumes it; a second Ctrl-C ends
it at once.

Exit codes: 0 done, 2 something to mend in the input, 1 the run failed, 130 / 143 stopped by Ctrl-C / SIGTERM.
"""

import sys

from marl.cli import main

if __name__ == "__main__":
    sys.exit(main())
