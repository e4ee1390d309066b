package spiffe

import "math/big"

// hasROCAShape reports whether an RSA modulus has the fingerprint of a library
// whose keys can be factored (CVE-2017-15361): modulo each of the small primes
// it is a power of 65537. A good modulus looks so once in 2^150.
func hasROCAShape(n *big.Int) bool {
	for _, p := range []uint64{
		3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89,
		97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
	} {
		rest := new(big.Int).Mod(n, new(big.Int).SetUint64(p)).Uint64()
		if !isPower(65537%p, rest, p) {
			return false
		}
	}
	return true
}

// isPower reports whether x is a power of g modulo p.
func isPower(g, x, p uint64) bool {
	power := uint64(1)
	for range p {
		if power == x {
			return true
		}
		power = power * g % p
	}
	return false
}
