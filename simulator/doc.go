// Package simulator is a strict stand-in for the EC2 instance metadata service, for the demo, the
// tests and people without an EC2 instance.
//
// It answers as the service does on the wire: status lines, header names and their order, bodies,
// the end of the connection, and the IP TTL of the answers to PUT. Where a behaviour was seen in a
// capture or is documented by AWS, the code says where; where it is not known, the code says that.
// All credentials it hands out are AWS's published examples and open nothing.
package simulator
