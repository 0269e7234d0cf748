#!/bin/sh
# Leader and follower as threads of one process; what they say goes to log_local_gpu.txt, as the original's does.
#   launch/run_vfl_train_local.sh [DATA_PATH] [further flags of flrun, for instance -o preset=small]
# VFL_CONFIG names another yaml than configs/wide_deep/job.yaml.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
log=log_local_gpu.txt

case ${1-} in
    '' | -*) ;;
    *)
        rows=$1
        shift
        set -- --data_path="$rows" "$@"
        ;;
esac
echo "the log is $log" >&2
exec flrun -m "${VFL_CONFIG:-$here/configs/wide_deep/job.yaml}" --in_process "$@" >"$log" 2>&1
