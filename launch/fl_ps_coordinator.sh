#!/bin/sh
# The quick start with a coordinator: ten workers, one server, one coordinator, by their full host:port lists.
# No sparse table is private or split here: both lists are emptied.
#   launch/fl_ps_coordinator.sh [further flags of flrun, for instance -o runner.epochs=1]
# FL_PS_CONFIG names another yaml than configs/config_fl.yaml.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

exec flrun \
    --worker_num=10 \
    --workers="127.0.0.1:9000,127.0.0.1:9001,127.0.0.1:9002,127.0.0.1:9003,127.0.0.1:9004,127.0.0.1:9005,127.0.0.1:9006,127.0.0.1:9007,127.0.0.1:9008,127.0.0.1:9009" \
    --server_num=1 --servers="127.0.0.1:10000" \
    --coordinator_num=1 --coordinators="127.0.0.1:10001" \
    -m "${FL_PS_CONFIG:-$here/configs/config_fl.yaml}" \
    -o runner.local_sparse=[] -o runner.remote_sparse=[] \
    "$@"
