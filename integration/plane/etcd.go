package plane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Compact makes etcd forget all history, by the JSON face of its API.
func (p *Plane) Compact() {
	p.t.Helper()
	post := func(path string, body any) map[string]any {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		client := http.Client{Timeout: 10 * time.Second}
		r, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/v3%s", p.etcdPort, path), "application/json", bytes.NewReader(b))
		if err != nil {
			p.t.Fatal(err)
		}
		defer r.Body.Close()
		var out map[string]any
		if err := json.NewDecoder(r.Body).Decode(&out); err != nil || r.StatusCode != http.StatusOK {
			p.t.Fatalf("etcd %s: %s: %v", path, r.Status, err)
		}
		return out
	}
	header := post("/kv/range", map[string]any{"key": "AA=="})["header"].(map[string]any)
	post("/kv/compaction", map[string]any{"revision": header["revision"], "physical": true})
}
