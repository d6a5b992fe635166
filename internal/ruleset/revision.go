package ruleset

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// Revision names the content of rs: "sha256:" and 64 hexadecimal digits. Equal
// rule sets have equal revisions, on every node and in every version that reads
// the same rules.
func (rs RuleSet) Revision() string {
	b, err := json.Marshal(rs)
	if err != nil {
		panic(err) // plain data; nothing in it can fail to encode
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(b))
}
