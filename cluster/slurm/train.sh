#!/usr/bin/env bash
# Trains on all nodes of one Slurm job, and goes on in a next one when the time is over:
#
#   sbatch --export=ALL,GREATMETA_VENV=/shared/venv cluster/slurm/train.sh \
#       /shared/stores/first /shared/runs/first train.steps=100000
#
# Options of sbatch replace those below: sbatch --nodes=8 …
#
#SBATCH --job-name=greatmeta
#SBATCH --nodes=4
# One Ray for each node, which then has all its processors and GPUs.
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
# Two Rays of one user on a node get into each other's way: the one that ends stops both.
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Three minutes before the end this script is told, and it alone (B:). Were Ray's processes told as
# well, they would end before the checkpoint is written.
#SBATCH --signal=B:TERM@180
# A lost node ends the job. Slurm may then queue it again, and so may this script.
#SBATCH --requeue
# The log of the first part stays when the job starts again.
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

store=${1:?name the store: train.sh STORE RUN [OPTION…]}
run=${2:?name the run: train.sh STORE RUN [OPTION…]}
shift 2
for folder in "$store" "$run"; do
    [[ $folder == /* ]] || { echo "$folder is not an absolute path on shared storage" >&2; exit 2; }
done
# shellcheck disable=SC1091  # it is made by the user
source "${GREATMETA_VENV:?name the folder of the environment that greatmeta is installed in}/bin/activate"

# This script runs on the first node of the job, and that one becomes Ray's head. Some systems have
# a node's own name point to the node itself; then the others could not reach it.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(getent ahostsv4 "${nodes[0]}" | awk 'NR == 1 { print $1 }')
if [[ -z $address || $address == 127.* ]]; then
    address=$(hostname -I | awk '{ print $1 }')
fi
[[ -n $address ]] || { echo "${nodes[0]} has no IPv4 address that others reach" >&2; exit 1; }
# Ray's workers take 10002 to 19999. A port for each job: an earlier one may still hold its own.
port=$((20000 + SLURM_JOB_ID % 10000))

# A token of this job alone. srun hands the environment on to all nodes; no command line shows it.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Nodes that load Python from a network file system take longer than Ray's 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_USAGE_STATS_ENABLED=0
# /tmp/ray would belong to whoever used the node first. The name is short: Ray's sockets lie in it,
# and their paths may have 107 characters. A job that starts again may find what it left here.
export RAY_TMPDIR=/tmp/greatmeta-$SLURM_JOB_ID
rm -rf "$RAY_TMPDIR"
mkdir -m 700 "$RAY_TMPDIR"
driver=$RAY_TMPDIR/driver.pid

# The largest power of two that fits: a GPU for each worker, or a processor where there are none.
gpus=${SLURM_GPUS_ON_NODE:-0}
room=$((SLURM_JOB_NUM_NODES * (gpus > 0 ? gpus : SLURM_CPUS_PER_TASK)))
workers=1
while ((workers * 2 <= room)); do workers=$((workers * 2)); done

# torch asks the system for the address of a node's name, with the same trouble. So each node says by
# which network it reaches the head, unless GLOO_SOCKET_IFNAME is set already.
# shellcheck disable=SC2016  # the variables are those of the shell on the node
node='
if [[ -z ${GLOO_SOCKET_IFNAME:-} ]]; then
    network=$({ ip -o -4 addr show to "$1"; ip -o -4 route get "$1"; } 2>/dev/null | awk "
        / inet / { print \$2; exit }
        { for (i = 1; i < NF; i++) if (\$i == \"dev\") { print \$(i + 1); exit } }") || true
    [[ -z $network ]] || export GLOO_SOCKET_IFNAME=$network
fi
shift
trap "rm -rf $RAY_TMPDIR" EXIT
"$@"'

# --wait: once the head's task has ended, the others would look for it for a minute. And where
# another node's Ray has died, training could not have it back.
# The driver's number goes to a file, so that the signal can go to the driver and nobody else.
# shellcheck disable=SC2016  # $$ and $1 are those of the shell that it starts
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --wait=10 bash -c "$node" node "$address" \
    ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --object-store-memory=500000000 -- \
    bash -c 'echo $$ >"$1"; shift; exec "$@"' driver "$driver" \
    greatmeta train store="$store" run="$run" \
    cluster=ray cluster.address=auto cluster.workers="$workers" "$@" &
ray=$!

# TERM: the time is over; write a checkpoint, and go on in a next job. USR1: write one, and end
# (scancel --batch --signal=USR1 JOB).
next="" signals=0
# shellcheck disable=SC2329  # the traps call it
stop() {
    next=$1 signals=$((signals + 1))
    echo "stopping after the next step, with a checkpoint"
    # Before the driver runs there is nothing to save.
    if [[ -s $driver ]]; then kill -TERM "$(<"$driver")" || true; else kill -TERM "$ray" || true; fi
}
trap 'stop requeue' TERM
trap 'stop end' USR1

# A signal ends `wait`, not the training. The code is the training's where no signal came meanwhile.
while true; do
    code=0 before=$signals
    wait "$ray" || code=$?
    ((signals == before)) && break
done
rm -rf "$RAY_TMPDIR"

# greatmeta ends with 0, 1 (failed) or 2 (wrong options). What is above was killed, by a lack of memory
# or with a node: that is tried again, but not for ever.
if ((code > 2)) && [[ -z $next ]] && ((${SLURM_RESTART_COUNT:-0} < 10)); then
    echo "training was ended from outside ($code)"
    next=requeue
fi
# Not where somebody cancels the job: Slurm sends TERM then as well, but the job runs no more.
if [[ $next == requeue && $code != 0 ]] &&
    [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
    echo "queued again; it goes on from its checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
