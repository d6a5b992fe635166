package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/podwall/podwall/internal/api"
)

// separator stands between the parts of a key. It is in no container id and in
// no interface name.
const separator = "\x00"

func recordKey(k api.Key) []byte {
	return []byte(k.ContainerID + separator + k.Interface)
}

func parseKey(b []byte) api.Key {
	id, ifname, _ := strings.Cut(string(b), separator)
	return api.Key{ContainerID: id, Interface: ifname}
}

func encode(r Record) (key, value []byte, err error) {
	key = recordKey(r.Key)
	if parseKey(key) != r.Key || r.ContainerID == "" {
		return nil, nil, fmt.Errorf("key %q: empty or with a NUL", key)
	}
	value, err = json.Marshal(r)
	return key, value, err
}

// decode reads the record that was stored at key.
func decode(key, value []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, err
	}
	if r.Key != parseKey(key) {
		return Record{}, errors.New("it is another attachment's")
	}
	return r, nil
}
