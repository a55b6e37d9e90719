package kubernetes

import (
	"testing"

	"github.com/imds-bridge/imds-bridge/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
