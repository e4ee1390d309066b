package spiffe

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"
)

func TestROCAShape(t *testing.T) {
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if hasROCAShape(key.N) {
			t.Errorf("a good modulus is taken for a bad one: %x", key.N)
		}
	}
	// Of 2048 bits and a power of 65537 modulo every prime there is.
	bad := new(big.Int).Exp(big.NewInt(65537), big.NewInt(128), nil)
	if !hasROCAShape(bad) || CheckKey(&rsa.PublicKey{N: bad, E: 65537}) == nil {
		t.Error("a modulus of the shape is taken")
	}
}
