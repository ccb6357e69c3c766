//! Types that cross the border between vnet's BPF programs and its userspace.
#![no_std]
