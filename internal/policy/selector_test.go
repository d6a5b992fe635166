package policy_test

import (
	"testing"

	"github.com/podwall/podwall/internal/policy"
)

func TestSelectors(t *testing.T) {
	web := policy.Labels{"app": "web", "tier": ""}
	needs := func(n ...policy.Need) policy.Selector { return policy.Selector{Needs: n} }
	tests := []struct {
		name     string
		selector policy.Selector
		text     string
		picks    bool // web
	}{
		{"the zero Selector picks nothing", policy.Selector{}, "<nothing>", false},
		{"all", policy.Selector{All: true}, "<all>", true},
		{"the zero Need holds for nothing", needs(policy.Need{}), "<nothing>", false},
		{"In one value", needs(policy.Need{Key: "app", Op: policy.In, Values: []string{"web"}}), "app=web", true},
		{"In several values", needs(policy.Need{Key: "app", Op: policy.In, Values: []string{"api", "web"}}), "app in (api,web)", true},
		{"In other values", needs(policy.Need{Key: "app", Op: policy.In, Values: []string{"api"}}), "app=api", false},
		{"In the empty value", needs(policy.Need{Key: "tier", Op: policy.In, Values: []string{""}}), "tier=", true},
		{"In the empty value without the label", needs(policy.Need{Key: "env", Op: policy.In, Values: []string{""}}), "env=", false},
		{"NotIn", needs(policy.Need{Key: "app", Op: policy.NotIn, Values: []string{"web"}}), "app notin (web)", false},
		{"NotIn without the label", needs(policy.Need{Key: "env", Op: policy.NotIn, Values: []string{"dev"}}), "env notin (dev)", true},
		{"Exists with an empty value", needs(policy.Need{Key: "tier", Op: policy.Exists}), "tier", true},
		{"Exists without the label", needs(policy.Need{Key: "env", Op: policy.Exists}), "env", false},
		{"DoesNotExist", needs(policy.Need{Key: "env", Op: policy.DoesNotExist}), "!env", true},
		{"all needs must be met", needs(policy.Need{Key: "app", Op: policy.Exists}, policy.Need{Key: "tier", Op: policy.DoesNotExist}), "app,!tier", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.selector.Picks(web); got != tt.picks {
				t.Errorf("picks %v: %t, want %t", web, got, tt.picks)
			}
			if got := tt.selector.String(); got != tt.text {
				t.Errorf("text is %q, want %q", got, tt.text)
			}
		})
	}
}
