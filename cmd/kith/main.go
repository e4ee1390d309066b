// Command kith gives every service an identity and says who may do what; this
// package is the door: verbs, the terminal and the one list of drivers.
package main

import "os"

func main() { os.Exit(execute()) }
