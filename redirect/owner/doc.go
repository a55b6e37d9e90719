// Package owner finds the process that a TCP socket belongs to, where no kernel program has recorded it: the socket by asking
// it, by sock_diag or by the tables in /proc, its process by the descriptors in /proc.
package owner
