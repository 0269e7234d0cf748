#!/bin/sh
# The leader of a split job, alone on this host; its log is log/leaderlog.0 (the original's leader_train.log).
#   launch/run_vfl_train_leader.sh OWN_HOST:PORT FOLLOWER_HOST:PORT DATA_PATH False [further flags of flrun]
#   launch/run_vfl_train_leader.sh OWN_HOST:PORT FOLLOWER_HOST:PORT DATA_PATH True \
#       SERVER_PASSWORD CLIENT_PASSWORD SERVER_CERT CLIENT_CERT CA_CERT [further flags of flrun]
# A password may be - where FLPS_SERVER_PASSWORD or FLPS_CLIENT_PASSWORD, or a file that FLPS_SERVER_PASSWORD_FILE or
# FLPS_CLIENT_PASSWORD_FILE names, holds it: better, since a command line is everybody's to read.
# VFL_CONFIG names another yaml than configs/wide_deep/job.yaml.
VFL_ROLE=leader
export VFL_ROLE
exec "$(dirname -- "$0")/run_vfl_train_party.sh" "$@"
