// Does what its first argument names with @stable-canvas/comfyui-client; prints JSON.
import { BasePipe, Client, Workflow, plugins } from "@stable-canvas/comfyui-client";
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [scenario, host, token, picture] = process.argv.slice(2);
const client = new Client({ api_host: host, WebSocket, fetch });
if (token) client.use(new plugins.LoginAuthPlugin({ token }));

function textToImage(seed) {
  const workflow = new Workflow();
  const nodes = workflow.classes;
  const [model, clip, vae] = nodes.CheckpointLoaderSimple({
    ckpt_name: "v1-5-pruned-emaonly.safetensors",
  });
  const encode = (text) => nodes.CLIPTextEncode({ text, clip })[0];
  const [latent_image] = nodes.EmptyLatentImage({ width: 64, height: 64, batch_size: 2 });
  const [samples] = nodes.KSampler({
    seed, steps: 4, cfg: 4, sampler_name: "euler", scheduler: "normal", denoise: 1,
    model, positive: encode("good"), negative: encode("bad"), latent_image,
  });
  const [images] = nodes.VAEDecode({ samples, vae });
  nodes.SaveImage({ filename_prefix: "canvas", images });
  return workflow;
}

const failing = {
  1: { class_type: "EmptyImage", inputs: { width: 8, height: 8, batch_size: 1, color: 0 } },
  2: { class_type: "SimulatorRaise", inputs: { value: ["1", 0], kind: "ValueError", message: "boom" } },
  3: { class_type: "PreviewImage", inputs: { images: ["2", 0] } },
};

async function fetched(result) {
  const urls = result.images.filter((image) => image.type === "url").map((image) => image.data);
  const query = token ? `&token=${token}` : "";
  const answers = await Promise.all(urls.map((url) => fetch(url + query)));
  return answers.map((answer) => [answer.status, answer.headers.get("content-type")]);
}

const scenarios = {
  async websocket() {
    let previews = 0;
    const steps = [];
    client.on("b_preview", () => previews++);
    client.on("progress", ({ value }) => steps.push(value));
    return { files: await fetched(await textToImage(1).invoke(client)), previews, steps };
  },
  async polling() {
    return await fetched(await textToImage(2).invoke_polling(client, { polling_ms: 20 }));
  },
  async failing() {
    return await client.enqueue(failing).catch((error) => error.message);
  },
  async interrupt() {
    const workflow = new Workflow();
    const [image] = workflow.classes.EmptyImage({ width: 8, height: 8, batch_size: 1, color: 1 });
    const [waited] = workflow.node("SimulatorWait", { value: image, seconds: 30 });
    workflow.classes.PreviewImage({ images: waited });
    const run = workflow.instance(client);
    const started = new Promise((resolve) => client.on("progress", resolve));
    await run.enqueue();
    const end = run.wait().catch((error) => error.message);
    await started;
    await run.interrupt();
    return await end;
  },
  // Its own pipe sends the pictures as base64 and takes the result from the websocket.
  async pipe() {
    const pipe = new BasePipe().with(client).model("v1-5-pruned-emaonly.safetensors");
    pipe.image(readFileSync(picture)).mask(readFileSync(picture)).prompt("good").steps(2).seed(3);
    const { images } = await pipe.save().wait();
    return images.map(({ data, mime }) => [mime, Buffer.from(data).toString("base64")]);
  },
  async carried() {
    const workflow = new Workflow();
    const { ETN_LoadImageBase64, ETN_SendImageWebSocket } = workflow.classes;
    const [images] = ETN_LoadImageBase64({ image: readFileSync(picture).toString("base64") });
    ETN_SendImageWebSocket({ images, format: "PNG" });
    const result = await workflow.invoke(client);
    return result.images.map(({ data, mime }) => [mime, Buffer.from(data).toString("base64")]);
  },
  async lists() {
    return {
      checkpoints: await client.getSDModels(),
      samplers: await client.getSamplers(),
      queue: await client.getQueue(),
      folders: (await client.getModelFolders()).map((folder) => folder.name),
      stats: Object.keys(await client.getSystemStats()),
    };
  },
};

await client.connect();
console.log(JSON.stringify(await scenarios[scenario]()));
client.close();
process.exit(0);
