"""The only doors to the outside: processes, files, libvirt, ssh, time, the log."""
