#!/bin/sh
# A vLLM server that a trainer can use: serve.sh MODEL [ARGUMENTS OF vllm serve]
#
# VLLM_API_KEY   the key that it asks for, and that the trainer has to have; needed
# HOST, PORT     where it listens: 127.0.0.1 and 8000
# LORA_RANK      rank of the adapters it serves: 64 (1, 8, 16, 32, 64, 128, 256, 320 or 512)
# VERSIONS       how many it keeps: max_staleness + 2; 2
# VLLM_PYTHON    the interpreter that has vLLM: python3
set -eu
: "${1:?expected a model: a hub id or a folder}"
: "${VLLM_API_KEY:?set it: without a key whoever reaches the server can change its weights}"
export VLLM_API_KEY VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_NO_USAGE_STATS=1
model=$1
shift
# Log-probabilities are those of the sampling temperature, and the model's own top-k and the like
# are left out: both would change the policy, and nothing would say so.
exec "${VLLM_PYTHON:-python3}" -m vllm.entrypoints.openai.api_server --model "$model" \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" \
    --logprobs-mode processed_logprobs --generation-config vllm \
    --enable-lora --max-lora-rank "${LORA_RANK:-64}" --max-loras "${VERSIONS:-2}" "$@"
