package hook

import (
	"errors"
	"strings"
	"testing"
)

func TestKernelThatIsTooOldIsNamed(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]string{
		"4.14.355-276.639.amzn2.x86_64": "4.14.355-276.639.amzn2.x86_64",
		"5.4.0-1103-aws":                "5.10 or newer",
		"5.9.16":                        "5.10 or newer",
	} {
		if err := judgeKernel(release, true); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", release, err)
		}
	}
	for _, release := range []string{"5.10.223", "6.1.0-42-cloud-amd64", "6.18.44", "10.0-rc1"} {
		if err := judgeKernel(release, true); err != nil {
			t.Errorf("%s: %v", release, err)
		}
	}
	if err := judgeKernel("6.1.0", false); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "CONFIG_DEBUG_INFO_BTF") {
		t.Errorf("without BTF: %v", err)
	}
}
