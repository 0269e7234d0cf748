#!/bin/sh
# The quick start with split sparse tables: ten workers and one server by their full host:port lists, no coordinator.
# The yaml's local_sparse (users, private) and remote_sparse (items, shared) are in force.
#   launch/fl_ps_sparse.sh [further flags of flrun, for instance -o runner.epochs=1]
# FL_PS_CONFIG names another yaml than configs/config_fl.yaml.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

exec flrun \
    --worker_num=10 \
    --workers="127.0.0.1:9000,127.0.0.1:9001,127.0.0.1:9002,127.0.0.1:9003,127.0.0.1:9004,127.0.0.1:9005,127.0.0.1:9006,127.0.0.1:9007,127.0.0.1:9008,127.0.0.1:9009" \
    --server_num=1 --servers="127.0.0.1:10000" \
    --coordinator_num=0 \
    -m "${FL_PS_CONFIG:-$here/configs/config_fl.yaml}" \
    "$@"
