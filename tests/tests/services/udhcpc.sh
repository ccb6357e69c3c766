#!/bin/sh
# What busybox's DHCP client calls: configures the interface as a guest's does, and writes to $SAID
# what it was told.
[ "$1" = bound ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
for gateway in $router; do
    ip route add default via "$gateway"
done
printf '%s\n' "ip=$ip/$mask" "router=$router" "dns=$dns" "domain=$domain" \
    "boot=$boot_file from $siaddr" >"$SAID"
