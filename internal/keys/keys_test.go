package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

const purpose = "root key of acme.example"

func newKEK(t *testing.T) *KEK {
	t.Helper()
	kek, err := FileKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func newPassphrase(t *testing.T, text string) *KEK {
	t.Helper()
	kek, err := PassphraseKEK([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func TestAuthoritySignsAndSurvivesSealing(t *testing.T) {
	kek := newKEK(t)
	key, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal(kek, purpose)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(kek, purpose, sealed)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	signature, err := again.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("the opened key is another")
	}
	key.Wipe()
	if _, err := key.Sign(rand.Reader, digest[:], nil); err == nil {
		t.Error("a wiped key signs")
	}
	if _, err := key.Seal(kek, purpose); err == nil {
		t.Error("a wiped key can be sealed")
	}
}

func TestSealIsBoundToPurposeAndKey(t *testing.T) {
	kek, plain := newKEK(t), []byte("secret")
	sealed, err := kek.Seal(purpose, plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := kek.Open(purpose, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("Open = %q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"other purpose": func() ([]byte, error) { return kek.Open("root key of other.example", sealed) },
		"no purpose":    func() ([]byte, error) { return kek.Open("", sealed) },
		"other file":    func() ([]byte, error) { return newKEK(t).Open(purpose, sealed) },
		"passphrase":    func() ([]byte, error) { return newPassphrase(t, "correct horse").Open(purpose, sealed) },
		"nothing":       func() ([]byte, error) { return kek.Open(purpose, nil) },
		"too long": func() ([]byte, error) {
			return kek.Open(purpose, append(sealed[:headerSize:headerSize], make([]byte, 2<<20)...))
		},
	} {
		if got, err := open(); err == nil || got != nil || !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i := range sealed {
		changed := append([]byte{}, sealed...)
		changed[i] ^= 0x10
		if got, err := kek.Open(purpose, changed); err == nil {
			t.Errorf("byte %d changed: opened as %q", i, got)
		}
		if got, err := kek.Open(purpose, sealed[:i]); err == nil {
			t.Errorf("cut at %d: opened as %q", i, got)
		}
	}
	if again, err := kek.Seal(purpose, plain); err != nil || bytes.Equal(again, sealed) {
		t.Errorf("sealing twice gives the same bytes, %v", err)
	}
	if _, err := kek.Seal("", plain); err == nil {
		t.Error("sealed for no purpose")
	}
	if _, err := kek.Seal(purpose, make([]byte, maxPlain+1)); err == nil {
		t.Error("sealed over 1 MiB")
	}
}

func TestPassphrase(t *testing.T) {
	sealed, err := newPassphrase(t, "correct horse").Seal(purpose, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := newPassphrase(t, "correct horse").Open(purpose, sealed); err != nil || string(got) != "secret" {
		t.Errorf("Open = %q, %v", got, err)
	}
	if _, err := newPassphrase(t, "correct mouse").Open(purpose, sealed); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := PassphraseKEK([]byte("short")); !fault.Is(err, fault.Invalid) {
		t.Errorf("short passphrase: %v", err)
	}
	mine := []byte("correct horse")
	kek, err := PassphraseKEK(mine)
	if err != nil {
		t.Fatal(err)
	}
	clear(mine)
	if string(kek.secret) != "correct horse" {
		t.Error("the caller's copy is used")
	}
	kek.Wipe()
	if bytes.Contains(kek.secret, []byte("horse")) {
		t.Error("wiping left the passphrase")
	}
}

func TestFileIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if _, err := OpenFileKEK(path); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
		t.Errorf("a missing file: %v", err)
	}
	var wait sync.WaitGroup
	secrets := make([][]byte, 8)
	for i := range secrets {
		wait.Go(func() {
			kek, err := FileKEK(path)
			if err != nil {
				t.Error(err)
				return
			}
			secrets[i] = kek.secret
		})
	}
	wait.Wait()
	for _, secret := range secrets {
		if !bytes.Equal(secret, secrets[0]) || len(secret) != keySize {
			t.Error("a race made two keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("file is %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}

func TestFileRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", keySize, 0o400)
	if _, err := FileKEK(good); err != nil {
		t.Error(err)
	}
	if _, err := FileKEK(write("own", keySize, 0o600)); err != nil {
		t.Error(err)
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]fault.Kind{
		write("group", keySize, 0o440):   fault.Denied,
		write("other", keySize, 0o404):   fault.Denied,
		write("exec", keySize, 0o410):    fault.Denied,
		link:                             fault.Denied,
		pipe:                             fault.Denied,
		dir:                              fault.Denied,
		write("short", keySize-1, 0o400): fault.Invalid,
		write("long", keySize+1, 0o400):  fault.Invalid,
		write("empty", 0, 0o400):         fault.Invalid,
	} {
		if _, err := FileKEK(path); !fault.Is(err, kind) {
			t.Errorf("%s: %v, want it %s", filepath.Base(path), err, kind)
		}
	}
	if _, err := FileKEK(filepath.Join(dir, "none", "kek")); err == nil {
		t.Error("a file was made in no directory")
	}
}

// T22: a key shows in no log, error or encoding.
func TestKeysDoNotPrint(t *testing.T) {
	kek := newKEK(t)
	key, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := key.signer.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	checkPrints(t, kek, key, scalar)
	large, err := GenerateRSA()
	if err != nil {
		t.Fatal(err)
	}
	checkPrints(t, kek, large, large.signer.(*rsa.PrivateKey).D.Bytes())
}

func checkPrints(t *testing.T, kek *KEK, key *Authority, scalar []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key.signer)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []any{kek, key, *kek, struct{ A *Authority }{key}, struct{ K *KEK }{kek}, []*KEK{kek}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb, secret)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("event", "key", secret)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("event", "key", secret)
		if text, err := json.Marshal(secret); err == nil {
			out.Write(text)
		}
		for _, bytes := range [][]byte{kek.secret, scalar, der} {
			for _, form := range []string{string(bytes), hex.EncodeToString(bytes), strings.ToUpper(hex.EncodeToString(bytes)), strings.Trim(fmt.Sprint(bytes), "[]")} {
				if strings.Contains(out.String(), form) {
					t.Errorf("%T prints its secret", secret)
				}
			}
		}
	}
	for name, value := range map[string]any{"KEK": kek, "authority": key} {
		if text, err := json.Marshal(value); err == nil {
			t.Errorf("%s is encoded as %s", name, text)
		}
	}
}

func TestRSAAuthoritySignsAndSurvivesSealing(t *testing.T) {
	kek := newKEK(t)
	key, err := GenerateRSA()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal(kek, purpose)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(kek, purpose, sealed)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	signature, err := again.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	public := key.Public().(*rsa.PublicKey)
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil || public.N.BitLen() != 2048 {
		t.Errorf("%d bits: %v", public.N.BitLen(), err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = newAuthority(other).Seal(kek, purpose); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(kek, purpose, sealed); err == nil {
		t.Error("a key of another size was opened")
	}
}

// FuzzOpen: nothing but the one value sealed under this key opens. It is fixed,
// because each worker of the fuzzer makes the seeds anew.
func FuzzOpen(f *testing.F) {
	kek := &KEK{kind: kindFile, secret: make([]byte, keySize)}
	sealed, err := hex.DecodeString("6b6974682d7365616c01012a42fc4585980c21d04192a274e9e74b47408a7e0d7d81e0b857c84" +
		"c2711f6e72e583b8c4ae1403cf80332bcba7016fed6332f0e2b407465a1c1e3623e8e73b99010")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, value []byte) {
		plain, err := kek.Open(purpose, value)
		if opens := err == nil; opens != bytes.Equal(value, sealed) {
			t.Fatalf("%x: opens as %q, %v", value, plain, err)
		}
	})
}
