#!/bin/sh
# What run_vfl_train_leader.sh and run_vfl_train_follower.sh have in common; they say VFL_ROLE.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
role=${VFL_ROLE:?run_vfl_train_leader.sh and run_vfl_train_follower.sh say which party it is}
unset VFL_ROLE

wrong() {
    echo "$1; expected: run_vfl_train_$role.sh OWN_HOST:PORT OTHER_HOST:PORT DATA_PATH True|False [five of TLS]" >&2
    exit 2
}

[ $# -ge 4 ] || wrong "$# arguments"
own=$1 other=$2 rows=$3 tls=$4
shift 4
case $tls in
    [Tt]rue | [Ff]alse) ;;
    *) wrong "the fourth argument is '$tls', not True or False" ;;
esac

# Takes a password from the command line into a variable, by which it reaches flrun unseen.
password() {
    [ "$2" = - ] && return
    echo "warning: a password on the command line is everybody's to read; put it into $1 and write - instead" >&2
    export "$1=$2"
}

if [ "$tls" = True ] || [ "$tls" = true ]; then
    [ $# -ge 5 ] || wrong "TLS wants two passwords and three certificates, got $# arguments"
    password FLPS_SERVER_PASSWORD "$1"
    password FLPS_CLIENT_PASSWORD "$2"
    server_cert=$3 client_cert=$4 ca_cert=$5
    shift 5
    set -- --server_cert_path="$server_cert" --client_cert_path="$client_cert" --ca_cert_path="$ca_cert" "$@"
else
    case ${1-} in
        '' | -*) ;;
        *) wrong "'$1' behind False: certificates belong to True" ;;
    esac
fi

exec flrun -m "${VFL_CONFIG:-$here/configs/wide_deep/job.yaml}" \
    --role "$role" --http_server_address="$own" --remote_server_address="$other" \
    --data_path="$rows" --enable_ssl="$tls" "$@"
