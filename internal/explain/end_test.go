package explain

import (
	"slices"
	"testing"
)

func TestParseEnd(t *testing.T) {
	tests := []struct{ in, want string }{ // an empty want is an error
		{"shop/web", "shop/web"},
		{"shop/web.with.dots", "shop/web.with.dots"},
		{"svc/shop/api", "svc/shop/api"},
		{"svc/web", "svc/web"}, // a pod of a namespace that is called svc
		{"10.0.0.1", "10.0.0.1"},
		{"::ffff:10.0.0.1", "10.0.0.1"},
		{"fd00::1", "fd00::1"},
		{"api.shop.svc", "svc/shop/api"},
		{"api.shop.svc.cluster.local.", "svc/shop/api"},
		{"api.shop", ""},
		{".shop.svc", ""},
		{"pod.api.shop.svc", ""}, // of a pod behind a headless Service
		{"fe80::1%eth0", ""},
		{"10.0.0.0/8", ""},
		{"fd00::/8", ""},
		{"", ""},
		{"web", ""},
		{"shop/", ""},
		{"/web", ""},
		{"pod/shop/web", ""},
		{"svc/shop/", ""},
		{"svc/shop/api/80", ""},
	}
	for _, tt := range tests {
		end, err := ParseEnd(tt.in)
		if (err != nil) != (tt.want == "") || (err == nil && end.String() != tt.want) {
			t.Errorf("ParseEnd(%q) = %v, %v, want %q", tt.in, end, err, tt.want)
		}
	}
}

func FuzzParseEnd(f *testing.F) {
	for _, s := range []string{"shop/web", "svc/shop/api", "10.0.0.1", "fe80::1%eth0", "10.0.0.0/8", "a/b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		end, err := ParseEnd(s)
		if err != nil {
			return
		}
		again, err := ParseEnd(end.String())
		if err != nil || again != end {
			t.Errorf("ParseEnd(%q) is %v, which reads as %v, %v", s, end, again, err)
		}
	})
}

func TestNear(t *testing.T) {
	known := []string{"shop/api", "shop/web", "shop/web-2", "other/web"}
	tests := []struct {
		name string
		want []string
	}{
		{"shop/wev", []string{"shop/web"}},
		{"web", []string{"other/web", "shop/web"}},
		{"sjop/apu", []string{"shop/api"}},
		{"nothing/alike", nil},
		{"", nil},
	}
	for _, tt := range tests {
		if got := Near(tt.name, known); !slices.Equal(got, tt.want) {
			t.Errorf("Near(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}
