#!/bin/sh
# A follower of a split job, alone on this host; its log is log/followerlog.0 (the original's follower_train.log).
#   launch/run_vfl_train_follower.sh OWN_HOST:PORT LEADER_HOST:PORT DATA_PATH False [further flags of flrun]
#   launch/run_vfl_train_follower.sh OWN_HOST:PORT LEADER_HOST:PORT DATA_PATH True \
#       SERVER_PASSWORD CLIENT_PASSWORD SERVER_CERT CLIENT_CERT CA_CERT [further flags of flrun]
# It dials the leader; its own address is accepted and not used. Of several followers each says which it is: --rank 1.
# Passwords and VFL_CONFIG as in run_vfl_train_leader.sh.
VFL_ROLE=follower
export VFL_ROLE
exec "$(dirname -- "$0")/run_vfl_train_party.sh" "$@"
