// Package caller turns the kernel's record of a connect() into a named caller: its process, the script
// that it runs, its ancestors and what started it, its container, unit or session.
//
// The kernel's record is the truth. What /proc adds is shown only where it provably belongs to the
// process of the record.
package caller
