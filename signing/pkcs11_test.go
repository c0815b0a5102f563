//go:build !pkcs11key

package signing

import (
	"strings"
	"testing"
)

func TestPKCS11NeedsItsBuildTag(t *testing.T) {
	_, _, err := loadSigner(t.Context(), "pkcs11:token=x;object=y;slot-id=0?module-path=/x.so&pin-value=1234", nil)
	if err == nil || !strings.Contains(err.Error(), "-tags pkcs11key") || strings.Contains(err.Error(), "1234") {
		t.Errorf("got %v", err)
	}
}
