#!/bin/busybox sh
# What udhcpc calls: configures the interface as it was told, and prints that.
[ "$1" = bound ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
for gateway in $router; do
    ip route add default via "$gateway"
done
printf '%s\n' "ip=$ip/$mask" "router=$router" "dns=$dns" "domain=$domain"
