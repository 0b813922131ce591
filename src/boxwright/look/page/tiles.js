// Pixels of one image: complete if it is small, otherwise an overview and the visible tiles, at the current scale.
import { url } from "./api.js";

const WHOLE = 2048; // px of the longest side up to which an image is requested as one window
const OVERVIEW = 1024;
const TILE = 512; // px of a tile, at its own scale
const KEPT = 160; // tiles

export class Tiles {
  /** answer: of `api/images/ID`. onload: called when there is more to draw. */
  constructor(answer, onload, onerror) {
    Object.assign(this, { id: answer.id, width: answer.width, height: answer.height, onload, onerror });
    const longest = Math.max(this.width, this.height);
    this.isTiled = longest > WHOLE;
    this.kept = new Map(); // address -> image
    this.thumbnail = this.load(url(`images/${this.id}/thumbnail`));
    this.scale = this.isTiled ? OVERVIEW / longest : 1; // of the base
    this.base = this.window(0, 0, this.width, this.height, this.scale);
  }

  window(x, y, width, height, scale) {
    return this.load(url(`images/${this.id}/window`, { x, y, width, height, scale }));
  }

  load(address) {
    const image = new Image();
    image.decoding = "async";
    image.onload = () => this.onload();
    image.onerror = () => this.onerror(image === this.base);
    image.src = address;
    return image;
  }

  stop() {
    this.onload = this.onerror = () => {};
    for (const image of [this.thumbnail, this.base, ...this.kept.values()]) if (!image.complete) image.src = "";
  }

  /** Draw the visible part. view: as in `drawBoxes`; ratio: device px per CSS px. */
  draw(context, view, ratio) {
    const { scale, dx, dy } = view;
    context.imageSmoothingEnabled = scale * ratio < 3; // beyond, show sharp pixels
    const whole = isReady(this.base) ? this.base : this.thumbnail;
    if (isReady(whole)) context.drawImage(whole, dx, dy, this.width * scale, this.height * scale);
    if (!this.isTiled || scale * ratio <= this.scale) return;
    const level = Math.max(0, Math.floor(-Math.log2(scale * ratio)));
    const side = TILE * 2 ** level; // image px of a tile
    const left = Math.max(0, Math.floor(-dx / scale / side));
    const top = Math.max(0, Math.floor(-dy / scale / side));
    const right = Math.min(Math.ceil(this.width / side), Math.ceil((view.width - dx) / scale / side));
    const bottom = Math.min(Math.ceil(this.height / side), Math.ceil((view.height - dy) / scale / side));
    for (let row = top; row < bottom; row += 1) {
      for (let column = left; column < right; column += 1) {
        const [x, y] = [column * side, row * side];
        const [width, height] = [Math.min(side, this.width - x), Math.min(side, this.height - y)];
        const tile = this.tile(`${level} ${column} ${row}`, x, y, width, height, 2 ** -level);
        // Half a pixel more, to avoid visible seams between tiles.
        if (isReady(tile)) {
          context.drawImage(tile, x * scale + dx, y * scale + dy, width * scale + 0.5, height * scale + 0.5);
        }
      }
    }
  }

  tile(key, x, y, width, height, scale) {
    let tile = this.kept.get(key);
    if (tile) this.kept.delete(key); // moves it to the end: the first tile is the least recently used
    else tile = this.window(x, y, width, height, scale);
    this.kept.set(key, tile);
    if (this.kept.size > KEPT) {
      const [oldest, image] = this.kept.entries().next().value;
      if (!image.complete) image.src = "";
      this.kept.delete(oldest);
    }
    return tile;
  }
}

function isReady(image) {
  return image.complete && image.naturalWidth > 0;
}
