package main

import "github.com/spf13/cobra"

// denyVerb forbids a source something on a service.
func (a *app) denyVerb() *cobra.Command {
	return a.ruleVerb(&cobra.Command{
		Use:   `deny FROM ACTION... on TO`,
		Short: "forbid one service something on another one",
		Example: `  kith deny web "DELETE /v1/orders/{**}" on orders
  kith deny any "* /admin/{**}" on orders --except ops --name no-admin
  kith deny web "GET /v1/orders" on orders --shadow --name no-lists
  kith deny web "GET /v1/orders" on orders --dry-run`,
	})
}
