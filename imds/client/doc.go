// Package client says which client of the metadata service a call comes from, whether that client
// speaks IMDSv2, what is to be done about it, and which of its calls could be fewer.
//
// It is pure: a table, functions and one small type that counts. It does no I/O, and of ours it
// imports package imds alone. The table is shown in docs/clients.md.
package client

//go:generate go test . -run TestReference -update
