// Package imds says what the EC2 instance metadata service is: its addresses, headers, paths,
// routes and versions, and how one request is told from another.
//
// It is pure: data and functions, no I/O, and nothing of ours is imported.
package imds
