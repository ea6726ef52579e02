#!/bin/bash
# Whether the admin listener on PORT answers PATH with 200, for the health checks of containers: the images have no
# HTTP client, and need none.
#
#   healthy.sh PORT PATH
set -euo pipefail
port=$1 path=$2
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
read -r -t 5 _ status _ <&3
[ "$status" = 200 ]
