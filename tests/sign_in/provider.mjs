// A real provider of OpenID Connect: oidc-provider from npm. Whoever has the cookie `who` is signed
// in as that account, without a form; /who/NAME sets the cookie.
import http from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [port, redirects] = process.argv.slice(2);
const resolve = createRequire(`${process.cwd()}/package.json`).resolve;
const { Provider } = await import(pathToFileURL(resolve("oidc-provider")));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "comfy",
      client_secret: "a secret of the client",
      redirect_uris: redirects.split(","),
      post_logout_redirect_uris: [],
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["preferred_username", "groups"] },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
  cookies: { keys: ["a key for tests"] },
  ttl: { AccessToken: 60, AuthorizationCode: 60, IdToken: 60, Interaction: 60, Session: 600, Grant: 600 },
  async findAccount(ctx, id) {
    return {
      accountId: id,
      claims: async () => ({
        sub: id,
        email: `${id}@example.com`,
        email_verified: id.startsWith("unsaid") ? undefined : !id.startsWith("unverified"),
        preferred_username: id,
        groups: id.startsWith("admin") ? ["staff", "comfy-admins"] : ["staff"],
      }),
    };
  },
});

async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    const who = /(?:^|; )who=([\w-]+)/.exec(request.headers.cookie ?? "")?.[1];
    const result = who
      ? { login: { accountId: who } }
      : { error: "access_denied", error_description: "nobody is signed in" };
    return provider.interactionFinished(request, response, result);
  }
  const grant =
    (grantId && (await provider.Grant.find(grantId))) ||
    new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

const app = provider.callback();
http
  .createServer((request, response) => {
    const who = /^\/who\/([\w-]+)$/.exec(request.url)?.[1];
    if (who) {
      response.setHeader("Set-Cookie", `who=${who}; Path=/`);
      return response.end(who);
    }
    if (request.url.startsWith("/interaction/")) {
      return interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
    }
    return app(request, response);
  })
  .listen(Number(port), "127.0.0.1", () => console.log("listening"));
