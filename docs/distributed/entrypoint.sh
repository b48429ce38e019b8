#!/bin/sh
# entrypoint.sh ROLE [OPTION...]: what a container of the image runs. Options are those of `tokenwire serve` for the
# target, and of `locust` for master and worker.
set -eu

role=${1:-}
[ $# -eq 0 ] || shift

# exec: signals must reach the process itself, so that it ends in good order and its exit code is the container's.
case $role in
target)
    exec tokenwire serve "$@"
    ;;
master | worker)
    file=$(tokenwire locustfile)
    exec locust -f "$file" "--$role" "$@"
    ;;
*)
    echo "entrypoint.sh: role '$role': expected target, master or worker, then its options" >&2
    exit 2
    ;;
esac
