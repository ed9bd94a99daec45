#!/usr/bin/env bash
# Measure the LLM stage on one GPU, within ten minutes, on a machine with little more than PyTorch.
#
#     benchmarks/gpu_report.sh --inputs=gpu-inputs --out=gpu-report     # see docs/llm.md
#     benchmarks/gpu_report.sh --smoke                                  # seconds, on a CPU
#
# Options are those of gpu_report.py. $PYTHON names another interpreter than python3.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="${here%/*}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PYTORCH_NVML_BASED_CUDA_CHECK=1 # asking for a GPU must not open it, since processes fork

missing=$("$python" - <<'EOF'
import importlib.util
names = ("torch", "transformers", "peft", "pandas", "pydantic", "filelock", "pyarrow", "yaml")
print(*(name for name in names if importlib.util.find_spec(name) is None))
EOF
)
if [[ -n $missing ]]; then
    echo "gpu_report.sh needs these Python packages: $missing" >&2
    exit 2
fi

minutes=10
previous=
for option in "$@"; do
    if [[ $option == --minutes=* ]]; then
        minutes=${option#--minutes=}
    elif [[ $previous == --minutes ]]; then
        minutes=$option
    fi
    previous=$option
done
# The script ends in time by itself; this is for a GPU that hangs.
exec timeout --kill-after=5 "${minutes}m" "$python" "$here/gpu_report.py" "$@"
