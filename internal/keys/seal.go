package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/crypto/argon2"

	"github.com/kith-id/kith/internal/fault"
)

// A sealed value is header, nonce and AES-256-GCM ciphertext. The header names
// the format, how the key encryption key is had, and a salt:
//
//	"kith-seal" version(1) kind(1) salt(32) | nonce(12) | ciphertext and tag
//
// Each value is encrypted under a key of its own, derived from the key
// encryption key, the salt and the purpose; header and purpose are associated
// data. So nonces never meet, and a value moved to another place, or with one
// bit changed, does not open.
const (
	magic      = "kith-seal"
	version    = 1
	saltSize   = 32
	nonceSize  = 12
	headerSize = len(magic) + 2 + saltSize
	maxPlain   = 256 << 20 // an agent's cache is the largest

	kindFile       = 1
	kindPassphrase = 2
	keySize        = 32
	redactedKEK    = "[key encryption key]"
)

// The cost of a passphrase, RFC 9106's second recommended option. It belongs
// to the version byte: a sealed value cannot ask for another cost.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
)

// KEK is a key encryption key, from a file or a passphrase. It prints as a
// fixed text and may be used from several goroutines.
type KEK struct {
	kind   byte
	secret []byte
}

// PassphraseKEK makes a key encryption key of a passphrase, stretched by
// argon2id with a new salt for each value. It keeps its own copy; the caller
// should clear the passphrase. Sealing and opening take about 0.1 s each.
func PassphraseKEK(passphrase []byte) (*KEK, error) {
	const least = 12
	if len(passphrase) < least {
		err := fault.Invalidf("passphrase has %d bytes, at least %d are needed", len(passphrase), least)
		return nil, fault.Hint(err, "choose a longer passphrase, or use a key file")
	}
	return &KEK{kind: kindPassphrase, secret: append([]byte(nil), passphrase...)}, nil
}

// Seal encrypts plain, of at most 1 MiB, for a purpose: a constant text that
// says what the value is, and of what.
func (k *KEK) Seal(purpose string, plain []byte) ([]byte, error) {
	switch {
	case purpose == "":
		return nil, errors.New("seal: no purpose")
	case len(plain) > maxPlain:
		return nil, fmt.Errorf("seal: %d bytes, at most %d are allowed", len(plain), maxPlain)
	}
	sealed := make([]byte, headerSize+nonceSize, headerSize+nonceSize+len(plain)+16)
	copy(sealed, magic)
	sealed[len(magic)], sealed[len(magic)+1] = version, k.kind
	if _, err := rand.Read(sealed[len(magic)+2:]); err != nil { // salt and nonce
		return nil, fmt.Errorf("seal: %w", err)
	}
	header, nonce := sealed[:headerSize], sealed[headerSize:]
	aead, err := k.aead(header, purpose)
	if err != nil {
		return nil, err
	}
	return aead.Seal(sealed, nonce, plain, associated(header, purpose)), nil
}

// Open decrypts what Seal has made for the same purpose under the same key.
// The error does not tell a wrong key from a changed value: the cipher cannot.
// The caller owns the result and should clear it after use.
func (k *KEK) Open(purpose string, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) < headerSize+nonceSize+16 || string(sealed[:len(magic)]) != magic:
		return nil, fault.Invalidf("not a sealed value")
	case len(sealed) > headerSize+nonceSize+maxPlain+16:
		return nil, fault.Invalidf("sealed value has %d bytes, which is too many", len(sealed))
	case sealed[len(magic)] != version:
		return nil, fault.Invalidf("sealed value has version %d, this program knows version %d", sealed[len(magic)], version)
	case sealed[len(magic)+1] != k.kind:
		err := fault.Invalidf("sealed under a %s, opened with a %s", kindName(sealed[len(magic)+1]), kindName(k.kind))
		return nil, fault.Hint(err, "configure the key encryption key it was sealed with")
	}
	header, rest := sealed[:headerSize], sealed[headerSize:]
	aead, err := k.aead(header, purpose)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, rest[:nonceSize], rest[nonceSize:], associated(header, purpose))
	if err != nil {
		err := fault.Invalidf("sealed value does not open: it was changed, or sealed under another %s", kindName(k.kind))
		return nil, fault.Hint(err, "restore the %s that was in use when it was made", kindName(k.kind))
	}
	return plain, nil
}

// aead derives the cipher of one sealed value.
func (k *KEK) aead(header []byte, purpose string) (cipher.AEAD, error) {
	salt := header[len(magic)+2:]
	secret := k.secret
	if k.kind == kindPassphrase {
		secret = argon2.IDKey(k.secret, salt, argonTime, argonMemory, argonThreads, keySize)
		defer clear(secret)
	}
	key, err := hkdf.Key(sha256.New, secret, salt, "kith seal: "+purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive sealing key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

func associated(header []byte, purpose string) []byte {
	return append(append(make([]byte, 0, len(header)+len(purpose)), header...), purpose...)
}

func kindName(kind byte) string {
	switch kind {
	case kindFile:
		return "key file"
	case kindPassphrase:
		return "passphrase"
	default:
		return fmt.Sprintf("key of kind %d", kind)
	}
}

// Sealed reports whether data has the form of a sealed value. It says nothing
// about who sealed it: only Open does.
func Sealed(data []byte) bool { return len(data) >= headerSize && string(data[:len(magic)]) == magic }

// Wipe overwrites the secret; sealing and opening are wrong from then on, so
// call it last.
func (k *KEK) Wipe() { clear(k.secret) }

// String says what this is and never what it holds.
func (KEK) String() string { return redactedKEK }

// Format is String for every verb, %+v and %#v included.
func (KEK) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedKEK) }

// LogValue keeps the key out of logs.
func (KEK) LogValue() slog.Value { return slog.StringValue(redactedKEK) }

// MarshalText refuses, so that no encoder writes the key by accident.
func (KEK) MarshalText() ([]byte, error) {
	return nil, errors.New("a key encryption key cannot be encoded")
}
