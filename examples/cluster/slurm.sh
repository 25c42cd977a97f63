#!/bin/bash
# aem_gym on several nodes: the last one serves (a vLLM server a GPU), the others train.
#
#     sbatch --nodes=3 examples/cluster/slurm.sh --config configs/alfworld_qwen2.5_7b.yaml
#
# Arguments go to train.py. Again with --resume, the same command goes on from the newest checkpoint.
# The repository, and the environments TRAIN_PYTHON and VLLM_PYTHON, lie where all nodes see them.
# Not run on a cluster by us: a template to read before use.
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
set -euo pipefail

model=${MODEL:-Qwen/Qwen2.5-7B-Instruct}
shared=${SHARED:-$PWD/runs}         # all nodes see it under this path
max_length=${MAX_LENGTH:-2560}      # `max_length` of the run
staleness=${STALENESS:-1}           # `max_staleness`
export TRAIN_PYTHON=${TRAIN_PYTHON:-python} VLLM_PYTHON=${VLLM_PYTHON:-python}
gpus=8

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
((${#nodes[@]} >= 2)) || { echo "expected 2 nodes or more: sbatch --nodes=3 ..." >&2; exit 2; }
engine=${nodes[-1]} trainers=("${nodes[@]:0:${#nodes[@]}-1}")
list=$(IFS=,; echo "${trainers[*]}")

# Servers: the first process that trains gives each of them every version of the adapter.
VLLM_API_KEY=$(openssl rand -hex 24)
export VLLM_API_KEY HOST=0.0.0.0 LORA_RANK=${LORA_RANK:-64}
export VERSIONS=$((staleness + 2))
srun --nodes=1 --ntasks=1 -w "$engine" bash -c '
    for gpu in $(seq 0 $(($1 - 1))); do
        CUDA_VISIBLE_DEVICES=$gpu PORT=$((8000 + gpu)) docker/vllm/serve.sh "$2" --max-model-len "$3" &
    done
    wait -n  # one that ends ends the others, with the job step' servers "$gpus" "$model" "$max_length" &
servers=$!
trap 'kill $servers 2> /dev/null || true' EXIT

flags=()
for ((gpu = 0; gpu < gpus; gpu++)); do
    url=http://$engine:$((8000 + gpu))
    flags+=(--sampler-url "$url")
    until curl --silent --fail --max-time 5 "$url/health" > /dev/null; do
        kill -0 "$servers" || { echo "a server did not start" >&2; exit 1; }
        sleep 5
    done
done

# Trainers: a process a GPU.
srun --nodes="${#trainers[@]}" --ntasks="${#trainers[@]}" -w "$list" \
    "$TRAIN_PYTHON" -m torch.distributed.run --nnodes "${#trainers[@]}" --nproc_per_node "$gpus" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "${trainers[0]}:29400" \
    --shutdown-timeout 900 train.py --model "$model" --max-length "$max_length" --max-staleness "$staleness" \
    --sampler vllm "${flags[@]}" --set sampler_options.adapters="$shared/adapters" \
    --out "$shared/${RUN:-cluster}" "$@"
