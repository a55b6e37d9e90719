// Package caller turns the kernel's record of a connect() into a named caller: its process, its
// ancestors and its container.
//
// The kernel's record is the truth. What /proc adds is shown only where it provably belongs to the
// process of the record.
package caller
