// Package redirect holds what redirectors share: the listener behind them, and what they know of
// whose connection one is.
package redirect
