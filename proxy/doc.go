// Package proxy is the HTTP path: it takes redirected connections, classifies each request on
// them, asks the policy, brings IMDSv1 calls to IMDSv2, and answers as IMDS answered.
package proxy
