#!/bin/sh
# Leader and follower as threads of one process; what the leader says goes to log_local_gpu.txt, as the original's does.
#   launch/run_vfl_train_local.sh [DATA_PATH] [further flags of flrun, for instance -o preset=small]
# VFL_CONFIG names another yaml than configs/wide_deep/job.yaml; --device_target=CPU the log log_local_cpu.txt.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

case ${1-} in
    '' | -*) ;;
    *)
        rows=$1
        shift
        set -- --data_path="$rows" "$@"
        ;;
esac
exec flrun -m "${VFL_CONFIG:-$here/configs/wide_deep/job.yaml}" --in_process "$@"
